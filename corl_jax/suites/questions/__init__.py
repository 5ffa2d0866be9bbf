"""Questions about pictures, read from the files that their owners publish."""
