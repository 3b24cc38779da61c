{# When dbt built the row (UTC): shows at a glance which tables a load has touched. #}
{% macro built_at() %}(current_timestamp at time zone 'UTC'){% endmacro %}
