"""What people ask: the status, explanations and build reports, as data and as text."""
