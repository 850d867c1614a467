/*
 * state/definition.h
 *	  What stored text may name: the variables of folds, and those of upcasters and checks.
 */
#ifndef ES_STATE_DEFINITION_H
#define ES_STATE_DEFINITION_H

#include "state/state.h"

extern const EsVariable es_fold_variables[FOLD_VARIABLES];
extern const EsVariable es_event_variables[EVENT_VARIABLES];

#endif							/* ES_STATE_DEFINITION_H */
