// Markdown as DOM nodes. Text becomes text nodes only, whatever it holds; each function takes time linear in its text.

const MOST_NESTED = 6; // quotes and lists within one another; deeper ones stay as they were written
const MOST_OPEN = 24; // emphasis and links open at once: a text of 100,000 stars stays text
const LONGEST_ADDRESS = 1000;
const MOST_COLUMNS = 24;

// C0 and C1 but newline and tab, marks that turn the direction of text, and tags, which are invisible ASCII.
const UNWANTED = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u{e0000}-\u{e007f}]/gu;
const SURROGATE = /[\ud800-\udfff]/gu; // a lone one: in this mode a pair is one character

/** The text without what controls a display. */
export const harmless = (text) => text.replace(UNWANTED, "").replace(SURROGATE, "\ufffd");

/** A new element with properties and children; strings become text. */
export function make(name, properties = {}, ...children) {
	const element = document.createElement(name);
	for (const [key, value] of Object.entries(properties)) {
		if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
		else if (key === "data") Object.assign(element.dataset, value);
		else element[key] = value;
	}
	element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
	return element;
}

/** Shows the text in the element. Called again with more text, it keeps the blocks that are still the same. */
export function render(element, text) {
	const blocks = split(harmless(text).split("\n"), 0);
	const shown = element.markdown ?? [];
	let same = 0;
	while (same < blocks.length && same < shown.length && blocks[same].source === shown[same]) same++;
	while (element.childNodes.length > same) element.lastChild.remove();
	for (const block of blocks.slice(same)) element.append(build(block));
	element.markdown = blocks.map((block) => block.source);
}

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])[ \t]+(?=\S)/;

function isRule(line) {
	const bare = line.replace(/\s/g, "");
	return bare.length >= 3 && /[-*_]/.test(bare[0]) && bare === bare[0].repeat(bare.length);
}

/** The marks of a code block and the language after them, or null. */
function fence(line) {
	const [, marks, after] = FENCE.exec(line) ?? [];
	return marks && !(marks[0] === "`" && after.includes("`")) ? { marks, language: after.trim().split(/\s/, 1)[0] } : null;
}

const begins = (line, depth) =>
	fence(line) || HEADING.test(line) || isRule(line) || (depth < MOST_NESTED && (QUOTE.test(line) || ITEM.test(line)));

/** The blocks of some lines. `source` is what a block was made from: two of the same kind and source look the same. */
function split(lines, depth) {
	const blocks = [];
	let at = 0;
	const take = (kind, first, end, more = {}) => {
		blocks.push({ kind, depth, source: `${kind}\n${lines.slice(first, end).join("\n")}`, ...more });
		at = end;
	};
	while (at < lines.length) {
		const line = lines[at];
		let end = at + 1;
		let found;
		if (!line.trim()) {
			at++;
		} else if ((found = fence(line))) {
			const { marks, language } = found;
			const closes = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}\\s*$`);
			while (end < lines.length && !closes.test(lines[end])) end++;
			take("code", at, Math.min(end + 1, lines.length), { language, text: lines.slice(at + 1, end).join("\n") });
		} else if ((found = HEADING.exec(line))) {
			take("heading", at, end, { level: found[1].length, text: found[2].replace(/ #+ *$/, "") });
		} else if (isRule(line)) {
			take("rule", at, end);
		} else if (depth < MOST_NESTED && QUOTE.test(line)) {
			while (end < lines.length && QUOTE.test(lines[end])) end++;
			take("quote", at, end, { lines: lines.slice(at, end).map((each) => each.replace(QUOTE, "")) });
		} else if (depth < MOST_NESTED && (found = ITEM.exec(line))) {
			end = endOfList(lines, at, found);
			take("list", at, end, { items: items(lines.slice(at, end), found), first: parseInt(found[2], 10) });
		} else if (line.includes("|") && end < lines.length && isDivider(lines[end], line)) {
			while (end < lines.length && lines[end].includes("|")) end++;
			take("table", at, end, { rows: lines.slice(at, end) });
		} else {
			while (end < lines.length && lines[end].trim() && !begins(lines[end], depth)) end++;
			take("paragraph", at, end, { text: lines.slice(at, end).join("\n") });
		}
	}
	return blocks;
}

const ordered = (mark) => mark.length > 1;

function endOfList(lines, at, [, indent, mark]) {
	let end = at + 1;
	for (; end < lines.length; end++) {
		const line = lines[end];
		if (!line.trim()) {
			// A blank line goes on with the list if more of it follows.
			const next = lines[end + 1] ?? "";
			const item = ITEM.exec(next);
			if (!(next.startsWith(`${indent}  `) || (item && ordered(item[2]) === ordered(mark)))) break;
		} else if (!line.startsWith(`${indent}  `)) {
			const item = ITEM.exec(line);
			if (item && !isRule(line) ? item[1].length < indent.length || ordered(item[2]) !== ordered(mark) : begins(line, 0)) break;
		}
	}
	return end;
}

function items(lines, [, indent]) {
	const found = [];
	let width = 0;
	for (const line of lines) {
		const item = ITEM.exec(line);
		if (item && item[1].length <= indent.length + 1) {
			width = item[0].length;
			found.push([line.slice(width)]);
		} else {
			const space = line.length - line.trimStart().length;
			found.at(-1).push(line.slice(Math.min(space, width)));
		}
	}
	return found;
}

function cells(line) {
	const bare = line.trim().replace(/^\|/, "").replace(/\|$/, "");
	return bare.split("|", MOST_COLUMNS).map((cell) => cell.trim());
}

function isDivider(line, header) {
	const found = cells(line);
	return line.includes("-") && found.every((cell) => /^:?-+:?$/.test(cell)) && found.length === cells(header).length;
}

const BUILD = {
	heading: ({ level, text }) => inline(make("h3", { className: `level-${level}` }), text),
	paragraph: ({ text }) => inline(make("p"), text),
	rule: () => make("hr"),
	quote: ({ lines, depth }) => make("blockquote", {}, ...split(lines, depth + 1).map(build)),
	list({ items, first, depth }) {
		const list = make(Number.isNaN(first) ? "ul" : "ol");
		if (first !== 1 && !Number.isNaN(first)) list.start = first;
		for (const lines of items) {
			const blocks = split(lines, depth + 1).map(build);
			// An item of one paragraph is that text alone, so that a list of words stands close.
			const plain = blocks[0]?.localName === "p" ? [...blocks.shift().childNodes] : [];
			list.append(make("li", {}, ...plain, ...blocks));
		}
		return list;
	},
	code({ language, text }) {
		const copy = make("button", { type: "button", className: "quiet", data: { action: "copy-code" } }, "Copy code");
		const code = make("pre", { tabIndex: 0, role: "region", "aria-label": "Code" }, make("code", {}, text));
		return make("div", { className: "code" }, make("div", { className: "code-head" }, make("span", {}, language), copy), code);
	},
	table({ rows }) {
		const sides = cells(rows[1]).map((cell) => (/^:-+:$/.test(cell) ? "center" : cell.endsWith(":") ? "end" : ""));
		const row = (line, name) =>
			make("tr", {}, ...sides.map((side, number) => inline(make(name, { className: side }), cells(line)[number] ?? "")));
		const body = rows.slice(2).map((line) => row(line, "td"));
		const table = make("table", {}, make("thead", {}, row(rows[0], "th")), make("tbody", {}, ...body));
		return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, table);
	},
};

const build = (block) => BUILD[block.kind](block);

const SPECIAL = /[\\`*_~[\]<]|https?:\/\//g;
const MARKS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "s" };
const ADDRESS = /https?:\/\/[^\s<>"'`|\\^{}]+/y;
const WORD = /[\p{L}\p{N}]/u;

/** Appends a line of text with code, emphasis and links, and returns the element. */
function inline(element, text) {
	const frames = [{ node: element }];
	const add = (...nodes) => frames.at(-1).node.append(...nodes);
	const open = (mark) => {
		if (frames.length > MOST_OPEN) return add(mark);
		frames.push({ mark, node: document.createDocumentFragment() });
	};
	/** What was opened last turned out to be text. */
	const unopen = () => {
		const { mark, node } = frames.pop();
		add(mark, node);
	};
	const close = (mark, name, properties) => {
		while (frames.at(-1).mark !== mark) unopen();
		const { node } = frames.pop();
		add(make(name, properties, node));
	};
	const isOpen = (mark) => frames.some((frame) => frame.mark === mark);
	const runs = codeRuns(text);
	let at = 0;
	while (at < text.length) {
		SPECIAL.lastIndex = at;
		const next = SPECIAL.exec(text)?.index ?? text.length;
		if (next > at) add(text.slice(at, next));
		at = next;
		const character = text[at];
		if (character === undefined) break;
		if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
			add(text[at + 1]);
			at += 2;
		} else if (character === "`") {
			const run = runs.get(at);
			if (run.end === null) {
				add(text.slice(at, at + run.length));
				at += run.length;
			} else {
				const code = text.slice(at + run.length, run.end);
				add(make("code", {}, code.startsWith(" ") && code.endsWith(" ") && code.trim() ? code.slice(1, -1) : code));
				at = run.end + run.length;
			}
		} else if (character === "[") {
			open("[");
			at++;
		} else if (character === "]") {
			const address = text[at + 1] === "(" && isOpen("[") ? addressAt(text, at + 2) : null;
			if (address) {
				close("[", "a", linkTo(address.url));
				at = address.end;
			} else {
				if (isOpen("[")) {
					while (frames.at(-1).mark !== "[") unopen();
					unopen();
				}
				add("]");
				at++;
			}
		} else if (character === "h" || character === "<") {
			ADDRESS.lastIndex = character === "<" ? at + 1 : at;
			const before = text[at - 1] ?? " ";
			const found = WORD.test(before) || isOpen("[") ? null : ADDRESS.exec(text);
			if (found && (character === "h" || text[ADDRESS.lastIndex] === ">")) {
				const url = character === "h" ? trimmed(found[0]) : found[0];
				add(make("a", linkTo(url), url));
				at = character === "h" ? at + url.length : ADDRESS.lastIndex + 1;
			} else {
				add(character);
				at++;
			}
		} else {
			let length = 1;
			while (text[at + length] === character) length++;
			emphasis(character, length, text[at - 1] ?? " ", text[at + length] ?? " ", { add, open, close, isOpen });
			at += length;
		}
	}
	while (frames.length > 1) unopen();
	return element;
}

function emphasis(character, length, before, after, { add, open, close, isOpen }) {
	const within = character === "_" && WORD.test(before) && WORD.test(after); // snake_case
	const canClose = !/\s/.test(before) && !within;
	const canOpen = !/\s/.test(after) && !within;
	if (length > 3 || within || (character === "~" && length !== 2)) return add(character.repeat(length));
	const marks = length === 3 ? [character.repeat(2), character] : [character.repeat(length)];
	if (canClose && marks.every(isOpen)) {
		// The inner one first, if both were opened at once.
		for (const mark of length === 3 ? marks.reverse() : marks) if (isOpen(mark)) close(mark, MARKS[mark]);
		return undefined;
	}
	return canOpen ? marks.forEach(open) : add(character.repeat(length));
}

/** Of each run of backticks: its length, and where the next run of the same length is, or null. */
function codeRuns(text) {
	const runs = new Map();
	const later = new Map();
	for (const { 0: run, index } of [...text.matchAll(/`+/g)].reverse()) {
		runs.set(index, { length: run.length, end: later.get(run.length) ?? null });
		later.set(run.length, index);
	}
	return runs;
}

function addressAt(text, start) {
	const end = text.slice(start, start + LONGEST_ADDRESS).search(/[\s)]/);
	if (end < 0 || text[start + end] !== ")") return null;
	const url = text.slice(start, start + end);
	return /^(https?:\/\/|mailto:)[^\s]+$/i.test(url) ? { url, end: start + end + 1 } : null;
}

const linkTo = (url) => ({ href: url, target: "_blank", rel: "noopener noreferrer nofollow", title: url });

/** An address in a sentence, without the full stop and bracket after it. */
function trimmed(url) {
	let end = url.length;
	while (/[.,;:!?)\]*_~]/.test(url[end - 1])) end--;
	return url.slice(0, end);
}
