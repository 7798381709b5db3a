// Answers requests by @cloud-copilot/iam-simulate: JSON lines in, one word a line out.
//
// A line has policy, principal, action, resource, account and context. The words: "denied", "allowed" (by the
// policy alone), "delegated" (if the caller's own policies allow it too), "nothing". Inner modules are imported,
// since the package's own entry drops every condition key that KMS does not have; its version is pinned.
import { createInterface } from "node:readline";
import { loadPolicy } from "@cloud-copilot/iam-policy";

const inner = "./node_modules/@cloud-copilot/iam-simulate/dist/esm";
const { authorize } = await import(`${inner}/core_engine/CoreSimulatorEngine.js`);
const { AwsRequestImpl } = await import(`${inner}/request/request.js`);
const { RequestContextImpl } = await import(`${inner}/requestContext.js`);
const { DiscoveryContextKeyConstraints } = await import(`${inner}/context_keys/discoveryContextKeyConstraints.js`);

const WORDS = {
  Allowed: "allowed",
  AllowedForAccount: "delegated",
  DeniedForAccount: "denied",
  ExplicitlyDenied: "denied",
  ImplicitlyDenied: "nothing",
};

function answer({ policy, principal, action, resource, account, context }) {
  const request = new AwsRequestImpl(
    principal,
    { resource, accountId: account },
    action,
    new RequestContextImpl(context),
  );
  const analysis = authorize({
    request,
    sessionPolicy: undefined,
    identityPolicies: [],
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy: loadPolicy(policy, { name: "key policy" }),
    permissionBoundaries: undefined,
    vpcEndpointPolicies: undefined,
    simulationParameters: {
      simulationMode: "Strict",
      discoveryContextKeyConstraints: new DiscoveryContextKeyConstraints([]),
    },
    serviceSettings: {},
  });
  return WORDS[analysis.resourceAnalysis.result] ?? `error ${analysis.resourceAnalysis.result}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  let word;
  try {
    word = answer(JSON.parse(line));
  } catch (error) {
    word = `error ${error.message}`.replaceAll("\n", " ");
  }
  process.stdout.write(`${word}\n`);
}
