SELECT es_create_projection('nothing', 'SELECT position FROM new_events', event_types => '{Never}');
