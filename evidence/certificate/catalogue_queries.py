"""The queries of the catalogue check, over all schemas except PostgreSQL's own.

Source of tables and columns: https://www.postgresql.org/docs/current/catalogs.html
"""

APP = "covenant_app"
OWN_SCHEMAS = "n.nspname !~ '^(pg_|information_schema$)'"

# (table, column, type, not null)
COLUMNS = f"""
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'f') and {OWN_SCHEMAS}"""
# (table, row-level security is enabled, is forced)
SECURITY = f"""
select c.relname, c.relrowsecurity, c.relforcerowsecurity
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'f') and {OWN_SCHEMAS}"""
POLICIES = """
select tablename, policyname, permissive, roles::text[], cmd, qual, with_check from pg_policies"""
# (object, privilege, with grant option): one row for each privilege of the role or PUBLIC
PRIVILEGES = f"""
with objects as (
    select case c.relkind when 'S' then 'sequence ' else 'table ' end || c.relname as object,
        coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char",
            c.relowner)) as acl
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and {OWN_SCHEMAS}
    union all
    select 'column ' || c.relname || '.' || a.attname, a.attacl
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace where {OWN_SCHEMAS}
    union all
    select 'function ' || f.proname, coalesce(f.proacl, acldefault('f', f.proowner))
    from pg_proc f join pg_namespace n on n.oid = f.pronamespace where {OWN_SCHEMAS}
    union all
    select 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner))
    from pg_namespace n where {OWN_SCHEMAS}
    union all
    select 'database', coalesce(d.datacl, acldefault('d', d.datdba))
    from pg_database d where d.datname = current_database()
    union all
    select 'default of ' || defaclobjtype::text, defaclacl from pg_default_acl
)
select object || case grantee when 0 then ' to PUBLIC' else '' end, privilege_type, is_grantable
from objects, aclexplode(acl)
where grantee = 0 or grantee = '{APP}'::regrole"""
# (table, index, first column)
UNIQUE_KEYS = f"""
select c.relname, x.indexrelid::regclass::text, a.attname
from pg_index x join pg_class c on c.oid = x.indrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_attribute a on a.attrelid = c.oid and a.attnum = x.indkey[0]
where (x.indisunique or x.indisexclusion) and {OWN_SCHEMAS}"""
# (table, constraint, referenced table, columns, referenced columns)
FOREIGN_KEYS = f"""
select c.relname, k.conname, k.confrelid::regclass::text,
    array(select a.attname::text from unnest(k.conkey) with ordinality u(n, i)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by i),
    array(select a.attname::text from unnest(k.confkey) with ordinality u(n, i)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by i)
from pg_constraint k join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and k.conparentid = 0 and {OWN_SCHEMAS}"""
# What runs with its owner's rights, changes statements, or is evaluated only once.
BYPASSES = f"""
select case c.relkind when 'v' then 'view ' when 'm' then 'materialized view '
    else 'foreign table ' end || c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('v', 'm', 'f') and {OWN_SCHEMAS}
    and not (c.relkind = 'v' and coalesce('security_invoker=true' = any (c.reloptions), false))
union all
select 'security definer function ' || f.proname
from pg_proc f join pg_namespace n on n.oid = f.pronamespace where f.prosecdef and {OWN_SCHEMAS}
union all
select 'rule ' || r.rulename
from pg_rewrite r join pg_class c on c.oid = r.ev_class
join pg_namespace n on n.oid = c.relnamespace where r.rulename <> '_RETURN' and {OWN_SCHEMAS}
union all
select 'immutable function ' || f.proname || ' in a policy'
from pg_depend d join pg_proc f on f.oid = d.refobjid
where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_proc'::regclass
    and f.provolatile = 'i'"""
ROLE_ATTRIBUTES = f"""
select x.attribute from pg_roles r, lateral (values
    (r.rolsuper, 'is a superuser'), (r.rolbypassrls, 'has BYPASSRLS'),
    (r.rolcreaterole, 'has CREATEROLE'), (r.rolcreatedb, 'has CREATEDB'),
    (r.rolreplication, 'has REPLICATION'),
    (exists (select from pg_auth_members m where m.member = r.oid), 'is a member of a role'),
    (exists (select from pg_shdepend s where s.refobjid = r.oid and s.deptype = 'o'
        and s.dbid in (0, (select oid from pg_database where datname = current_database()))),
        'owns an object'),
    (exists (select from pg_db_role_setting s where s.setrole = r.oid), 'has role settings')
) x(is_true, attribute) where r.rolname = '{APP}' and x.is_true"""
