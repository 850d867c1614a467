COPY event_store.import (stream, event_type, data, occurred_at) FROM STDIN;
