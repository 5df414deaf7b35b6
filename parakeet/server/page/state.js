// What the page knows: the server's model, the open conversation, and the replies that are being written.

export const state = {
	about: null,
	/** The open conversation as the server gives it, with `byId` and `reply`; null before its first message. */
	session: null,
	/** Settings of the next reply; null until the model is known. */
	settings: null,
	/** What was typed as system message before there is a conversation. */
	system: "",
	/** Conversations in which a reply is being written, by name. */
	live: new Map(),
	/** How the reply of an exchange is shown: {kind: "tokens" | "trace", …} by exchange. */
	views: new WeakMap(),
	online: true,
};

/** Takes a session object of the server. */
export function adopt(session) {
	session.byId = new Map(session.exchanges.map((exchange) => [exchange.id, exchange]));
	return session;
}

export function put(session, exchange) {
	const known = session.byId.get(exchange.id);
	if (known) return Object.assign(known, exchange);
	session.exchanges.push(exchange);
	session.byId.set(exchange.id, exchange);
	return exchange;
}

/** The exchanges from the first one to the present one. */
export function path(session) {
	const found = [];
	for (let at = session.byId.get(session.at); at; at = session.byId.get(at.parent)) found.push(at);
	return found.reverse();
}

/** Of an exchange: the different messages at its place, and the replies to the same message, each with the chosen one. */
export function branches(session, exchange) {
	const beside = session.exchanges.filter((other) => (other.parent ?? null) === (exchange.parent ?? null));
	const same = (other) => other.message === exchange.message && Boolean(other.raw) === Boolean(exchange.raw);
	const replies = beside.filter(same);
	const key = (other) => `${Boolean(other.raw)} ${other.message}`;
	const messages = [...new Map(beside.map((other) => [key(other), other])).values()];
	return {
		replies,
		reply: replies.indexOf(exchange),
		messages,
		message: messages.findIndex(same),
	};
}

/** Where a conversation goes on from an exchange: the latest one that follows from it. */
export function leaf(session, exchange) {
	let at = exchange;
	for (;;) {
		const after = session.exchanges.filter((other) => other.parent === at.id);
		if (!after.length) return at;
		at = after.reduce((latest, other) => (other.id > latest.id ? other : latest));
	}
}
