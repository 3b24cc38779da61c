"""dbt: what runs it, the project on disk, and the recorder of its results."""
