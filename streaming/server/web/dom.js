// Building and changing the page without ever parsing text as HTML.

/** `element("a", {href: "/"}, ["Runs"])`; attributes that are null or false are left out, children that are null too. */
export function element(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Change the text of a node only when it differs: what is selected or read aloud stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Replace the children only if their text differs. */
export function setChildren(node, children) {
  const next = element("div", {}, children);
  if (node.innerHTML !== next.innerHTML) node.replaceChildren(...next.childNodes);
}

/** `<time>` with the local time as text and UTC in its attributes. */
export function time(seconds, text, isoText) {
  return element("time", { datetime: isoText, title: isoText }, [text]);
}
