//! What a command needs of a host before it begins: repairs, and room.

use crate::cli::commands::Command;

/// Whether the command changes or trusts what is in the store; the others only look.
pub(crate) fn mends_first(command: &Command) -> bool {
    match command {
        Command::Ensure(args) => !args.dry_run,
        Command::Activate(args) => !args.dry_run,
        Command::Deactivate(args) => !args.dry_run,
        Command::Rm(args) => !args.dry_run,
        Command::Gc(args) => !args.dry_run,
        Command::Pin(_) | Command::Unpin(_) | Command::Verify(_) | Command::Checked(_) => true,
        Command::Bundle(_) | Command::Mount(_) => true,
        Command::Scan(args) => !args.show,
        Command::Show(args) => args.vm,
        Command::Recover(_)
        | Command::Umount(_)
        | Command::Ls(_)
        | Command::Df(_)
        | Command::Runs(_)
        | Command::Events(_)
        | Command::Cancel(_)
        | Command::Quarantine(_)
        | Command::Rebuild(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Catalog(_)
        | Command::Metrics(_)
        | Command::Push(_)
        | Command::Top(_) => false,
    }
}

/// Whether the command makes room or lets some be made, and so may have what is kept back for that.
pub(crate) fn makes_room(command: &Command) -> bool {
    match command {
        Command::Deactivate(args) => !args.dry_run,
        Command::Rm(args) => !args.dry_run,
        Command::Gc(args) => !args.dry_run,
        Command::Recover(args) => !args.dry_run,
        Command::Unpin(_) | Command::Cancel(_) => true,
        Command::Ensure(_)
        | Command::Activate(_)
        | Command::Bundle(_)
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Pin(_)
        | Command::Verify(_)
        | Command::Checked(_)
        | Command::Scan(_)
        | Command::Ls(_)
        | Command::Show(_)
        | Command::Df(_)
        | Command::Runs(_)
        | Command::Events(_)
        | Command::Quarantine(_)
        | Command::Rebuild(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Catalog(_)
        | Command::Metrics(_)
        | Command::Push(_)
        | Command::Top(_) => false,
    }
}
