turnable(document.querySelector(".view")).show(JSON.parse(document.getElementById("scene").textContent))
  .then(() => { document.documentElement.dataset.ready = "yes"; });
