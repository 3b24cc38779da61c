"""What does not fit between the dbt project and the loads, for continuous integration."""
