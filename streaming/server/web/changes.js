// What the run's owner may change at its page: name, notes, a link for others, or that it is gone.
import { api } from "./api.js";
import { byId, setText } from "./dom.js";
import { bytes, count } from "./format.js";

/** `page.run` is the run shown; `again()` shows it anew. */
export function offerChanges(page, again, fail) {
  const guarded = (action) => action().catch(fail);
  byId("changes").hidden = false;
  ask("edit", {
    open: () => {
      byId("title-text").value = page.run.title;
      byId("notes-text").value = page.run.notes;
    },
    agreed: () => guarded(async () => {
      await api.edit(page.run.id, { title: byId("title-text").value, notes: byId("notes-text").value });
      await again();
    }),
  });
  ask("delete", {
    open: () => setText(byId("delete-text"), `Its ${count(page.run.rows ?? 0)} rows and its ${count(page.run.objectCount)} objects in S3 (${bytes(page.run.bytes)}) are deleted for good.`),
    agreed: () => guarded(async () => {
      await api.remove(page.run.id);
      location.assign("/");
    }),
  });
  ask("share", { open: () => (byId("share-link").value = ""), agreed: () => {} });
  byId("share-make").addEventListener("click", () => guarded(async () => {
    const link = byId("share-link");
    link.value = location.origin + (await api.share(page.run.id, Number(byId("share-hours").value)));
    link.focus();
    link.select();
  }));
}

/** A button and its dialog; `agreed` when that is left by "yes". */
function ask(name, { open, agreed }) {
  const dialog = byId(`${name}-dialog`);
  byId(name).addEventListener("click", () => {
    dialog.returnValue = "";
    open();
    dialog.showModal();
  });
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && agreed());
}
