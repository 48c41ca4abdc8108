//! `vipd probe` against known truths, in namespaces: gaps that the kernel makes, hosts that answer at
//! once, counts that somebody else has counted too. See `vipd_tests::truth`.

mod announcement;
mod capture;
mod counts;
mod dropped;
mod gap;
mod input;
mod judge;
mod life;
mod owners;
mod rate;
mod refused;
mod slow;
