# event_store: an event store inside PostgreSQL. PGXS; PostgreSQL 15 to 19.

EXTENSION = event_store
EXTVERSION = 0.2.0
MODULE_big = event_store
PGFILEDESC = "event_store - an event store inside PostgreSQL"

# SQL that the library runs, and the C file that it is made into: docs/internals/schema.md. (PGXS would install what SCRIPTS
# names.)
SQL_SCRIPTS = $(sort $(wildcard sql/*/*.sql))
SCRIPT_TEXTS = src/base/script_texts.c

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c) $(SCRIPT_TEXTS)))

DATA_built = sql/event_store--$(EXTVERSION).sql
# What 0.1 had, and the step from there: ALTER EXTENSION UPDATE.
DATA = $(filter-out $(DATA_built),$(wildcard sql/event_store--*.sql))

# Includes are written from src/ on: "log/scan.h".
PG_CPPFLAGS = -I$(srcdir)/src

# ES_FAULTS=1 compiles in points at which tests have a process fail (test/README.md).
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers $(if $(ES_FAULTS),-DES_FAULTS) $(ES_CFLAGS)

REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --load-extension=event_store
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
# Later versions look for expected/ here, not beside specs/, unless told.
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=output_iso --load-extension=event_store \
	$(if $(shell $(dir $(PGXS))../test/isolation/pg_isolation_regress --help | grep expecteddir),--expecteddir=test/isolation)

EXTRA_CLEAN = sql/event_store--$(EXTVERSION).sql $(SCRIPT_TEXTS) $(SCRIPT_TEXTS).tmp results output_iso regression.diffs regression.out

PG_CONFIG ?= pg_config
# "make check" and "make demo" install what they need, so they must work where PGXS is not there yet;
# and PGXS has a "check" of its own, which only says that there is none.
OURS = check check-long demo bench lint coverage
ifneq ($(filter $(OURS),$(MAKECMDGOALS)),)
.PHONY: $(OURS)
check:
	@bash test/check.sh
check-long:
	@ES_LONG=1 bash test/check.sh
demo:
	@bash demo/demo.sh
bench:
	@bash bench/run.sh
lint:
	@bash test/lint.sh
coverage:
	@ES_COVERAGE=1 bash test/check.sh
endif

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(filter-out $(OURS),$(or $(MAKECMDGOALS),all)),)
# nothing to build here: the scripts call make
else ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
install installcheck all:
	@echo "PostgreSQL's server headers are missing: apt-get install postgresql-server-dev-15, or set PG_CONFIG" >&2; exit 1
endif

sql/event_store--$(EXTVERSION).sql: sql/event_store.sql
	cp $< $@

# Each line of a script is a string of C. Under another name first: a build that is cut short leaves no half of it.
$(SCRIPT_TEXTS): $(SQL_SCRIPTS) Makefile
	{ printf '%s\n' '/* Made from sql/ by make. */' '#include "postgres.h"' '#include "base/base.h"' 'const EsScriptText es_script_texts[] = {'; \
	for f in $(patsubst sql/%.sql,%,$(SQL_SCRIPTS)); do \
		echo "{\"$$f\","; sed 's/[\\"]/\\&/g; s/.*/"&\\n"/' "sql/$$f.sql" || exit 1; echo '},'; \
	done; echo '{NULL, NULL}};'; } >$@.tmp
	mv $@.tmp $@

$(OBJS): $(wildcard src/*/*.h)
