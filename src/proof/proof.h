/*
 * proof/proof.h
 *	  Whether the stored events are what they were: seals, verification, checks.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_PROOF_H
#define ES_PROOF_H

extern void es_seal_init(void);

#endif							/* ES_PROOF_H */
