"""A web page that translates recorded or live speech: with models on a server, or as static files that run them in the browser."""
