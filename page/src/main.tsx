import { render } from "preact";
import { followFeed } from "./api/feed";
import { takeKeyFromAddress } from "./api/key";
import { followHistory } from "./chat/session";
import { followChanges } from "./cluster/changes";
import { applyPreferences } from "./preferences";
import { followAddress } from "./route";
import { App } from "./shell/App";
import "./style.css";

const root = document.getElementById("page");
if (root === null) throw new Error("index.html has no element with the id `page`");

applyPreferences();
takeKeyFromAddress();
followAddress();
followFeed();
followChanges();
followHistory();
render(<App />, root);
