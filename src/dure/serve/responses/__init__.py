"""OpenAI's Responses API: typed items in, typed items out. Nothing is kept between requests."""

from dure.serve.responses.routes import router

__all__ = ["router"]
