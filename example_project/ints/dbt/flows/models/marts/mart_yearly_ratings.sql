{{
    config(
        materialized='incremental', incremental_strategy='microbatch',
        event_time='year', batch_size='year', begin='2025-01-01', lookback=1
    )
}}
select
    date_trunc('year', reviewed_at) as year,
    product_id,
    count(*) as reviews,
    avg(rating) as rating,
    {{ built_at() }} as built_at
from {{ ref('stage_dummyjson__reviews') }}
group by all
