/*
 * subscription/subscription.h
 *	  Subscriptions. The one header of this wing for the wings above it.
 */
#ifndef ES_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_H

extern void es_subscription_init(void);

#endif							/* ES_SUBSCRIPTION_H */
