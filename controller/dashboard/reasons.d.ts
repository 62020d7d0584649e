// Made of controller/metrics/reasons.ts when the daemon starts.
export { REASONS } from '../metrics/reasons.js';
