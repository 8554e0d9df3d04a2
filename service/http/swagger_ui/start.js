// Swagger UI fills parameters with their examples and defaults. An optional parameter must start
// empty: a `cursor` that was only an example, for instance, makes the request fail.
function emptyOptionalParameters(node) {
  if (Array.isArray(node)) node.forEach(emptyOptionalParameters);
  if (node === null || typeof node !== "object") return;
  if (typeof node.name === "string" && typeof node.in === "string" && !node.required) {
    delete node.example;
    delete node.examples;
    if (node.schema && "default" in node.schema) {
      const { default: value, ...schema } = node.schema;
      node.schema = schema;
      node.description = `${node.description || ""} (default: ${value})`.trim();
    }
  }
  Object.values(node).forEach(emptyOptionalParameters);
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const followColorScheme = () =>
  document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followColorScheme);
followColorScheme();

fetch("/openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    emptyOptionalParameters(spec.components.parameters);
    emptyOptionalParameters(spec.paths);
    const ui = SwaggerUIBundle({
      spec,
      dom_id: "#ui",
      deepLinking: true,
      displayRequestDuration: true,
      persistAuthorization: true,
      tryItOutEnabled: true,
      validatorUrl: null,
      defaultModelsExpandDepth: 0,
      // The token in a response is used for the operations that are tried next.
      responseInterceptor: (response) => {
        const token = response.ok && response.body && response.body.access_token;
        if (token) ui.preauthorizeApiKey("bearer", token);
        return response;
      },
    });
  });
