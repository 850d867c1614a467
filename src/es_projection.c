/*
 * es_projection.c
 *	  Projections, as the background workers see them: a placeholder.
 */
#include "postgres.h"

#include "es_projection.h"

int
es_projection_tasks(void)
{
	return 0;
}

bool
es_projection_turn(long *wait)
{
	*wait = -1;
	return false;
}
