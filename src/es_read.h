/*
 * es_read.h
 *	  Events as the functions that read return them.
 */
#ifndef ES_READ_H
#define ES_READ_H

#include "es_scan.h"

/* Columns of the type es_recorded_event. */
#define ES_EVENT_COLUMNS	11

extern void es_event_values(EsScan *scan, TupleTableSlot *slot, Datum *values, bool *nulls);

#endif							/* ES_READ_H */
