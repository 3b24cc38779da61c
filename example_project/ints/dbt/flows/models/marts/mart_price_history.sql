{{ config(materialized='view') }}
select
    product_id,
    title,
    price,
    discount_percentage,
    dbt_valid_from as valid_from,
    dbt_valid_to as valid_to
from {{ ref('snapshot_product_prices') }}
