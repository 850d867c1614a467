/*
 * log/idle_appender.h
 *	  Sessions that hold the mark back and do nothing.
 */
#ifndef ES_LOG_IDLE_APPENDER_H
#define ES_LOG_IDLE_APPENDER_H

extern int	es_idle_appenders_end(void);

#endif							/* ES_LOG_IDLE_APPENDER_H */
