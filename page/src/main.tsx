import { render } from "preact";
import { followFeed } from "./api/feed";
import { takeKeyFromAddress } from "./api/key";
import { followChanges } from "./cluster/changes";
import { applyPreferences } from "./preferences";
import { followSeen } from "./parts/seen";
import { followAddress } from "./route";
import { App } from "./shell/App";
import { followVersion } from "./shell/version";
import { followViews } from "./shell/views";
import { followLanguage } from "./text/told";
import "./style.css";

const root = document.getElementById("page");
if (root === null) throw new Error("index.html has no element with the id `page`");

applyPreferences();
followLanguage();
takeKeyFromAddress();
followAddress();
followSeen();
followFeed();
followChanges();
followViews();
followVersion();
render(<App />, root);
