// growthbook.js IDS EXPERIMENTS ASSIGNED - what GrowthBook's own JavaScript makes of every id and
// layer, beside what `recallctl experiments assign` made of it: the hash and the arm must be equal.
"use strict";
const fs = require("fs");
const { GrowthBook } = require("@growthbook/growthbook");

const [idsFile, experimentsFile, assignedFile] = process.argv.slice(2);
const lines = (file) => fs.readFileSync(file, "utf8").trimEnd().split("\n");
const ids = lines(idsFile);
const layers = JSON.parse(fs.readFileSync(experimentsFile, "utf8")).layers;
const assigned = lines(assignedFile).slice(1); // without the header

let compared = 0;
let wrong = 0;
for (const id of ids) {
  const growthbook = new GrowthBook({ attributes: { id } });
  for (const layer of layers) {
    const result = growthbook.run({
      key: layer.name,
      seed: layer.seed,
      hashVersion: 2,
      coverage: layer.coverage,
      variations: layer.arms.map((arm) => arm.name),
      weights: layer.arms.map((arm) => arm.weight),
    });
    const number = result.bucket; // GrowthBook gives none to those outside the experiment
    const arm = result.inExperiment ? layer.arms[result.variationId].name : "-";
    const [user, name, ours, ourArm] = assigned[compared++].split("\t");
    const agrees =
      user === id && name === layer.name && ourArm === arm &&
      (number === undefined || number.toFixed(4) === ours);
    if (!agrees && wrong++ < 10)
      console.error(`${id} ${layer.name}: ${number} ${arm}, ours: ${user} ${name} ${ours} ${ourArm}`);
  }
  growthbook.destroy();
}
if (compared !== assigned.length) {
  console.error(`${assigned.length} assignments for ${compared}`);
  wrong++;
}
console.log(`growthbook: ${ids.length} ids in ${layers.length} layers: ${compared - wrong} of ${compared} agree`);
process.exit(wrong === 0 ? 0 : 1);
