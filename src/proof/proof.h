/*
 * proof/proof.h
 *	  Seals, verification, checks: whether the store is what it was.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_PROOF_H
#define ES_PROOF_H

extern void es_seal_init(void);

#endif							/* ES_PROOF_H */
