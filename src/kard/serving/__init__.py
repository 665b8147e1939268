"""Serving a run or an export over HTTP: `server.serve` starts it, `app.create_app` is the application."""
