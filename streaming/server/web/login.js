// The login: a token for a session cookie, then back to where one wanted to go.
import { api } from "./api.js";
import { byId, setText } from "./dom.js";

/** Only a place on this very site, as the browser itself understands the address: it skips tabs and line ends in one, and
 * `/.//x` has the path `//x`, which by itself is another site. So it is the whole address that is gone to. */
function destination() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return next.origin === location.origin ? next.href : "/";
}

async function logIn(secret) {
  const button = byId("login").querySelector("button");
  button.disabled = true;
  try {
    await api.logIn(secret);
    location.replace(destination());
  } catch (error) {
    setText(byId("problem"), error.message);
    byId("problem").hidden = false;
    button.disabled = false;
    return false;
  }
  return true;
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await logIn({ token: byId("token").value.trim() })) return;
  byId("token").setAttribute("aria-invalid", "true");
  byId("token").select();
});

// A link of `server up` or `server open`: its ticket stands behind the #, which no browser sends anywhere.
const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
if (ticket) {
  history.replaceState(null, "", location.pathname + location.search);
  logIn({ ticket });
}
