"""Streams run by the page's scripts."""

import numpy as np

from residual_st.audio.lengths import Lengths

STREAM = """async ([lengths, direction, rate]) => {
  const { load } = await import("./in_browser.js"), updates = [];
  const model = await load({ path: "./", lengths }), stream = await model.stream(direction, rate, update => updates.push(update));
  const samples = new Float32Array(await (await fetch("samples.f32")).arrayBuffer());
  for (let start = 0; start < samples.length; start += rate / 10) {
    stream.feed(samples.subarray(start, start + rate / 10));
    while (updates.length < Math.floor((start + rate / 10) / rate) && start + rate / 10 <= samples.length) {
      await new Promise(resolve => setTimeout(resolve, 5));
    }
  }
  await stream.finish();
  return updates;
}"""


def streamed(page, lengths: Lengths, direction: dict, samples: np.ndarray, rate: int = 16_000) -> list[dict]:
    """Updates in the format of `residual-st listen --json`, for samples in real time, by the model of a page."""
    page.route("**/samples.f32", lambda route: route.fulfill(body=samples.tobytes()))
    updates = page.evaluate(STREAM, [vars(lengths), direction, rate])
    for row in [*updates, *(segment for update in updates for segment in update["closed"])]:
        row.update({name: round(value, 3) for name, value in row.items() if isinstance(value, float)})
    return updates
