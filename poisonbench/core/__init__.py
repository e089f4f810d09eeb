"""The bottom: errors, settings, seeds, files, folders, progress, signals. No torch here."""
