"""Other people's trainers and trackers: the only place where optional libraries are imported."""
