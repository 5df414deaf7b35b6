// Requests to the server that sent this page.

export class Failure extends Error {
	/** `status` is 0 if the server did not answer at all. */
	constructor(status, message, retryAfter = null) {
		super(message);
		this.status = status;
		this.retryAfter = retryAfter;
	}
}

/** What this tab keeps over a reload. Storage may be forbidden: then it forgets. */
export const kept = {
	get(name) {
		try {
			return sessionStorage.getItem(name) ?? "";
		} catch {
			return "";
		}
	},
	set(name, value) {
		try {
			if (value) sessionStorage.setItem(name, value);
			else sessionStorage.removeItem(name);
		} catch {
			// Forbidden or full.
		}
	},
};

export const hooks = {
	/** Asks for the key of the server: resolves to it, or to "" if the person gave none. */
	askKey: async () => "",
	/** Called with true or false: whether the server answered. */
	answered: () => {},
};

// A seed has up to 64 bits and a JavaScript number has 53: long ones travel as text. Inside a JSON string a quote is
// escaped, so these match keys only.
export const parse = (text) => JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
const write = (value) => JSON.stringify(value).replace(/"seed":"(\d{16,20})"/g, '"seed":$1');

async function send(method, path, body, signal) {
	const headers = {};
	if (kept.get("key")) headers.authorization = `Bearer ${kept.get("key")}`;
	if (body !== undefined) headers["content-type"] = typeof body === "string" ? "application/jsonl" : "application/json";
	let response;
	try {
		const content = body === undefined || typeof body === "string" ? body : write(body);
		response = await fetch(path, { method, headers, body: content, signal, cache: "no-store" });
	} catch (error) {
		if (error.name === "AbortError") throw error;
		hooks.answered(false);
		throw new Failure(0, "The server does not answer.");
	}
	hooks.answered(true);
	return response;
}

let asking = null;

async function answer(method, path, body, signal) {
	let response = await send(method, path, body, signal);
	while (response.status === 401) {
		// Several requests may be refused at once: one question serves all.
		asking ??= hooks.askKey(Boolean(kept.get("key"))).finally(() => (asking = null));
		const key = await asking;
		kept.set("key", key);
		if (!key) break;
		response = await send(method, path, body, signal);
	}
	if (response.ok) return response;
	let message = `The server answered ${response.status}.`;
	try {
		message = (await response.json()).error.message;
	} catch {
		// Not from this server, or cut off.
	}
	throw new Failure(response.status, message, Number(response.headers.get("retry-after")) || null);
}

/** The JSON of an answer; null for an empty one. Throws Failure. */
export async function call(method, path, body, signal) {
	const text = await text_of(method, path, body, signal);
	return text ? parse(text) : null;
}

/** An answer as text. Throws Failure. */
export async function text_of(method, path, body, signal) {
	const response = await answer(method, path, body, signal);
	try {
		return await response.text();
	} catch (error) {
		if (error.name === "AbortError") throw error;
		throw new Failure(0, "The connection was lost.");
	}
}

/** The events of a stream. Throws Failure, also for an error within the stream and for a stream without an end. */
export async function* events(path, body, signal) {
	const response = await answer("POST", path, body, signal);
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	for (;;) {
		let read;
		try {
			read = await reader.read();
		} catch (error) {
			if (error.name === "AbortError") throw error;
			hooks.answered(false);
			throw new Failure(0, "The connection was lost while the model replied.");
		}
		if (read.done) {
			hooks.answered(false);
			throw new Failure(0, "The connection ended while the model replied.");
		}
		rest += read.value;
		const lines = rest.split("\n");
		rest = lines.pop();
		for (const line of lines) {
			if (!line.startsWith("data:")) continue;
			const data = line.slice(5).trim();
			if (data === "[DONE]") return;
			const event = parse(data);
			if (event.error) throw new Failure(response.status, event.error.message);
			yield event;
		}
	}
}

/** Whether the server is there: "ready", "loading" or "gone". */
export async function health() {
	try {
		const response = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(8000) });
		return response.status === 503 ? "loading" : "ready";
	} catch {
		return "gone";
	}
}
