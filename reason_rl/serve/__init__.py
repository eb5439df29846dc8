"""An OpenAI-compatible server whose requests say how thinking is ended; starlette and uvicorn are its only extras."""
