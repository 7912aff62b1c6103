"""Pictures of a run's results; each module draws one kind of figure."""
