//! What happens to clusters, one file per kind of event.

mod bad_input_is_refused;
mod clusters_run_apps;
mod daemons_are_replaced;
mod daemons_die;
mod disks_fill_up;
mod disks_stall;
mod formations_run;
mod hosts_are_cut_off;
mod hosts_join_and_leave;
mod one_host_runs_jobs;
mod platforms_survive;
mod power_fails;
mod releases_do_not_come_up;
mod three_hosts_are_one_cluster;
mod time_stands_still_or_jumps;
mod writes_are_interrupted;
