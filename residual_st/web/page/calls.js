// Calls between the page and its worker, both ways.

// Answers calls of the other side with `functions`; returns a function that calls the other side: name and arguments -> promise.
export function connect(port, functions) {
  const waiting = new Map();
  let count = 0;
  port.onmessage = async ({ data: { call, name, given, value, error } }) => {
    if (name) {
      try {
        port.postMessage({ call, value: await functions[name](...given) });
      } catch (failed) {
        port.postMessage({ call, error: failed.message });
      }
    } else {
      const { resolve, reject } = waiting.get(call);
      waiting.delete(call);
      if (error === undefined) resolve(value);
      else reject(new Error(error));
    }
  };
  port.onerror = () => waiting.forEach(({ reject }) => reject(new Error("worker.js cannot be started.")));
  return (name, ...given) => new Promise((resolve, reject) => {
    waiting.set(count, { resolve, reject });
    port.postMessage({ call: count++, name, given });
  });
}
