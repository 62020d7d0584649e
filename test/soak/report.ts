/** What a soak did, for people. */
import { formatBytes, renderTable } from '../../controller/view/pairs.js';
import type { SoakReport } from './soak.js';

export function table(report: SoakReport): string {
  const { connections, datapath, kills, controller } = report;
  const rss = report.samples.map(({ rssKiB }) => rssKiB / 1024);
  const [slabBefore, slabAfter] = report.slabUnreclaimableKiB;
  return renderTable([
    ['connections', `${connections.connections} complete, ${connections.early} cut short by a kill`],
    ['verified', `${formatBytes(connections.bytes)} in ${connections.messages} sends`],
    ['paired', `${datapath.pairs}, ${datapath.promotions} promotions`],
    ['redirected', `${formatBytes(datapath.redirectedBytes)} in ${datapath.redirectedMessages} messages`],
    ['kills', `${kills.client} clients, ${kills.server} servers, ${kills.controller} controllers`],
    ['signals', `${connections.signals} handled, ${report.processStops} times stopped and continued`],
    ['controller', `${controller.starts} starts, ${controller.adoptions} of them adopted a datapath`],
    ['down', `${controller.downs}, ${controller.downsRefused} attempts met unread data and were repeated`],
    ['policies', `${datapath.policyReloads} loaded, ${datapath.policyReloadFailures} refused`],
    ['lone SYNs', `${report.synsSent} in ${report.floods} floods`],
    [
      'short memory',
      `sockets held at most ${formatBytes(report.socketMemory)}, ${connections.noMemory} sends met ENOMEM, ${connections.noWakeup} edges were not reported`,
    ],
    ['passed', reasons(datapath.passed)],
    ['refused', reasons(datapath.refusals)],
    ['demoted', reasons(datapath.demotions)],
    ['not paired', reasons(datapath.unpaired)],
    ['events lost', String(datapath.eventsLost)],
    ['controller RSS', `${Math.min(...rss).toFixed(0)} to ${Math.max(...rss).toFixed(0)} MiB; ${growth(report)}`],
    ['SUnreclaim', `${(slabBefore / 1024).toFixed(0)} MiB before, ${(slabAfter / 1024).toFixed(0)} MiB after`],
    ['skipped', report.skipped.length === 0 ? 'nothing' : report.skipped.join('; ')],
  ]);
}

function growth({ rssGrowthKiB, descriptorGrowth }: SoakReport): string {
  if (rssGrowthKiB === null) return 'no controller lived long enough to see it grow';
  return `grew by at most ${(rssGrowthKiB / 1024).toFixed(1)} MiB and ${descriptorGrowth ?? 0} descriptors`;
}

function reasons(counts: Record<string, number>): string {
  const seen = Object.entries(counts).filter(([, count]) => count > 0);
  return seen.length === 0 ? 'none' : seen.map(([reason, count]) => `${count} ${reason}`).join(', ');
}
