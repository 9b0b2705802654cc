/* Starts NiiVue on a case that is embedded in the page, when its paper is first looked at.
 *
 * A viewer is <div class="viewer" data-paper=...> with a canvas in a div of its own (NiiVue fills and
 * blackens the parent of its canvas), radio buttons for what lies over the scan, and a line that says
 * what is under the crosshair. The volumes are <script type="application/gzip+base64"
 * id="<paper>-scan"> and so on.
 */
(function () {
  "use strict";
  const BOTH = [134, 203, 96], REFERENCE = [0, 180, 216], PREDICTION = [255, 107, 53], NOTHING = null;
  // What stands for the four codes of an overlay voxel: 0 neither, 1 both, 2 reference, 3 prediction.
  const MODES = {
    agreement: [NOTHING, BOTH, REFERENCE, PREDICTION],
    reference: [NOTHING, REFERENCE, REFERENCE, NOTHING],
    prediction: [NOTHING, PREDICTION, NOTHING, PREDICTION],
    scan: [NOTHING, NOTHING, NOTHING, NOTHING],
  };
  const started = new Map();

  function read(paper, name, colours, highest) {
    const text = atob(document.getElementById(`${paper}-${name}`).textContent.trim());
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    return niivue.NVImage.new(bytes.buffer, `${name}.nii.gz`, colours, 1, null, 0, highest);
  }

  function addModes(viewer) {
    for (const [mode, colours] of Object.entries(MODES)) {
      const channel = (index) => colours.map((colour) => (colour ? colour[index] : 0));
      const shown = colours.map((colour) => (colour ? 255 : 0));
      viewer.addColormap(mode, { R: channel(0), G: channel(1), B: channel(2), A: shown, I: [0, 85, 170, 255] });
    }
  }

  function compare(overlay, reference, prediction) {
    for (let i = 0; i < overlay.img.length; i++) {
      const expected = reference.img[i] > 0, found = prediction.img[i] > 0;
      overlay.img[i] = expected && found ? 1 : expected ? 2 : found ? 3 : 0;
    }
  }

  async function open(box) {
    const paper = box.dataset.paper;
    const viewer = new niivue.Niivue({
      backColor: [0.078, 0.09, 0.102, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.25, crosshairGap: 4,
      isOrientationTextVisible: box.dataset.oriented === "yes", isNearestInterpolation: true,
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER, multiplanarPadPixels: 8, fontSizeScaling: 0.4,
      scrollRequiresFocus: true, isColorbar: false, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
    });
    await viewer.attachToCanvas(box.querySelector("canvas"));
    addModes(viewer);
    viewer.opts.multiplanarLayout = box.clientWidth > 640 ? niivue.MULTIPLANAR_TYPE.ROW : niivue.MULTIPLANAR_TYPE.GRID;
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    const [scan, overlay, reference, prediction] = await Promise.all([
      read(paper, "scan", "gray", 255), read(paper, "reference", "agreement", 3),
      read(paper, "reference", "gray", 255), read(paper, "prediction", "gray", 255),
    ]);
    compare(overlay, reference, prediction);
    viewer.addVolume(scan);
    viewer.addVolume(overlay);
    const place = box.querySelector(".place");
    viewer.onLocationChange = ({ vox: [x, y, z] }) => {
      const values = [scan, reference, prediction].map((volume) => volume.getValue(x, y, z));
      place.textContent = `voxel ${x}, ${y}, ${z} · grey ${values[0]} · reference ${values[1]} · prediction ${values[2]}`;
    };
    placeCrosshair(viewer, reference);
    wire(box, viewer, overlay);
    box.classList.add("ready");
    return viewer;
  }

  // The middle of the reference: the first planes show what the case is about.
  function placeCrosshair(viewer, reference) {
    const [columns, rows, slices] = reference.dimsRAS.slice(1);
    const sums = [0, 0, 0];
    let count = 0;
    for (let z = 0; z < slices; z++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
      if (reference.getValue(x, y, z) > 0) { sums[0] += x; sums[1] += y; sums[2] += z; count++; }
    }
    const middle = count ? sums.map((sum) => Math.round(sum / count)) : [columns >> 1, rows >> 1, slices >> 1];
    viewer.scene.crosshairPos = viewer.vox2frac(middle);
    viewer.createOnLocationChange();
  }

  function wire(box, viewer, overlay) {
    const strength = box.querySelector("input[type=range]");
    const update = () => {
      viewer.setColormap(overlay.id, box.querySelector("input[type=radio]:checked").value);
      viewer.setOpacity(1, Number(strength.value) / 100);
    };
    box.querySelectorAll("input").forEach((input) => input.addEventListener("input", update));
    update();
  }

  /** Start the viewer in a box unless it runs; resolves to the Niivue instance, or null. */
  window.openViewer = function (box) {
    if (!started.has(box)) {
      started.set(box, open(box).catch((failure) => {
        box.querySelector(".place").textContent =
          `The viewer could not start (${failure.message}); it needs a browser with WebGL 2.`;
        return null;
      }));
    }
    return started.get(box);
  };
})();
