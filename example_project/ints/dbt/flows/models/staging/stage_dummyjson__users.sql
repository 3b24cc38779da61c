-- Only what the marts need: names, phone numbers and addresses of people stay in the raw file.
select
    cast(json ->> 'id' as integer) as user_id,
    json ->> 'username' as username,
    cast(json ->> 'age' as integer) as age,
    json ->> 'role' as role,
    json ->> '$.address.city' as city,
    json ->> '$.address.country' as country,
    json ->> '$.company.name' as company,
    json ->> '$.company.department' as department,
    {{ built_at() }} as built_at
from {{ source('external_sources', 'raw_users') }}
