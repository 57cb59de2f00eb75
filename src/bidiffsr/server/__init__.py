"""Upscaling over HTTP: a queue of jobs, an API, and a page for the browser.

FastAPI and uvicorn (``pip install 'bidiffsr[server]'``) are imported by ``app`` and ``run`` alone.
"""
