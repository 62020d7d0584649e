// The daemon serves the file of the package.
export { default } from 'uplot';
