"""What a run of the dbt deployment does beside building."""
