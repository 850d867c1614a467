-- The role that a store is to belong to, where there is none of this name: nobody can log in as it.
--
-- owner: that role.

CREATE ROLE :owner NOLOGIN;
