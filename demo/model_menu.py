"""The menu of models above the tabs. `model_store` loads the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from common_ui import PAGE_EVENT, answered, said, status_line
from model_store import ModelStore, shown_name
from uploads import UserError
from visitors import Visitors


SECONDS_BETWEEN_SIGNS = 0.3


class ModelMenu:
    """A line that names the model and, if several models are offered, a menu below it.

    It is constructed within the `gr.Blocks`.

    Args:
        visitors: all visitors of the demo.
        store: the models that are offered.
    """

    def __init__(self, visitors: Visitors, store: ModelStore):
        self.visitors = visitors
        self.store = store
        if len(store.names) == 1:
            gr.Markdown(_title(store.first), elem_id="model-name")
            return
        with gr.Accordion(_title(store.first), open=False, elem_id="model-menu") as self.box:
            self.choice = gr.Radio(
                self._choices(),
                value=self._value(store.first),
                label="Which model",
                info="Large models and large inputs are more accurate and slower. One that is not here is fetched "
                "first, and you can go on with your work meanwhile.",
                elem_id="model-choice",
                elem_classes="models",
            )
            self.take = gr.Button("Take this model", elem_id="model-take")
            self.status = status_line("model-status")

    def wire(self, demo: gr.Blocks, *tabs: Any) -> None:
        """Connect the menu to the tabs.

        Args:
            demo: the app.
            tabs: the tabs that show a visitor's work. Each has `on_model` with its `model_inputs` and `model_outputs`.
        """
        if len(self.store.names) == 1:
            return
        quiet: dict[str, Any] = {**PAGE_EVENT, "show_progress": "hidden"}
        # Visitors who wait here do not take the turn of anyone else.
        taken = self.take.click(
            self.on_take,
            self.choice,
            [self.status, self.box, self.choice],
            trigger_mode="multiple",
            concurrency_limit=None,
            **quiet,
        )
        for tab in tabs:
            taken.then(tab.on_model, tab.model_inputs, tab.model_outputs, **quiet)
        demo.load(self.on_load, None, self.choice, **quiet)

    def _choices(self) -> list[tuple[str, str]]:
        """Return the label and the value of each model that is offered."""
        return [(self.store.describe(name), self._value(name)) for name in self.store.names]

    def _value(self, name: str) -> str:
        return str(self.store.names.index(name))  # visitors do not see paths on the server

    def on_load(self) -> dict[str, Any]:
        """Update the menu when a page is opened, because models may have been downloaded since the demo was started."""
        return gr.update(choices=self._choices())

    @answered
    async def on_take(self, value: str, request: gr.Request) -> AsyncIterator[dict[Any, Any]]:
        """Change to the chosen model when it is loaded, unless the visitor chooses another one meanwhile."""
        visitor = self.visitors.of(request.session_hash)
        names = dict(zip(map(self._value, self.store.names), self.store.names, strict=True))
        if value not in names:
            raise UserError("Choose a model first.")
        name = visitor.wanted_model = names[value]
        if name == visitor.model:
            yield {self.status: said(f"{shown_name(name)} is what you work with.")}
            return
        visitor.video.check_not_tracking()
        preparation = self.store.prepare(name)
        while not preparation.done:
            visitor.seen()
            yield {self.status: said(*preparation.says(), "Fetched so far")}
            await asyncio.sleep(SECONDS_BETWEEN_SIGNS)
            if visitor.wanted_model != name:
                return
        if preparation.problem is not None:
            raise UserError(preparation.problem)
        visitor.take_model(name)
        yield {
            self.status: said(f"You work with {shown_name(name)} now."),
            self.box: gr.update(label=_title(name), open=False),
            self.choice: gr.update(choices=self._choices()),
        }


def _title(name: str) -> str:
    """Return the title of the menu."""
    return f"Model: {shown_name(name)}"
