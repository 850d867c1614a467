-- What somebody else keeps in schema event_store, where no store is yet. What belongs to the extension may be there.

SELECT string_agg(s.what, ', ')
FROM (
    SELECT pg_describe_object(d.classid, d.objid, 0) AS what
    FROM pg_depend d
    WHERE d.refclassid = 'pg_namespace'::regclass
      AND d.refobjid = 'event_store'::regnamespace
      AND d.deptype = 'n'
      AND NOT EXISTS (
          SELECT FROM pg_depend e JOIN pg_extension x ON x.oid = e.refobjid
          WHERE e.classid = d.classid AND e.objid = d.objid
            AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e' AND x.extname = 'event_store')
    ORDER BY 1
    LIMIT 5) s;
