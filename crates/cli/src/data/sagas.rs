use anyhow::Context;
use mainstay::Exit;
use mainstay::store::{SagaEnd, SagaId, SagaPoint, SagaReport, SagaStage};

use super::open::Where;
use super::time;

#[derive(clap::Args)]
pub struct Sagas {
    /// Only this one, also if it is over: its key, as the list and the log have it.
    saga: Option<String>,
    #[command(flatten)]
    place: Where,
}

impl Sagas {
    pub fn run(self) -> anyhow::Result<Exit> {
        let id = self.saga.as_deref().map(read).transpose()?;
        let store = self.place.open()?;
        if let Some(id) = id {
            let Some(report) = store.saga(id)? else {
                println!("{id} was never begun in this store");
                return Ok(Exit::Unfinished);
            };
            tell(&report);
            return Ok(Exit::Well);
        }
        let reports = store.sagas()?;
        println!("{} under way", reports.len());
        reports.iter().for_each(tell);
        Ok(Exit::Well)
    }
}

fn read(text: &str) -> anyhow::Result<SagaId> {
    let number = u128::from_str_radix(text, 16).ok();
    let wrong =
        || format!("`{text}` is no key of a saga: write its hexadecimal digits, as in the list");
    Ok(SagaId(number.with_context(wrong)?))
}

fn tell(report: &SagaReport) {
    println!("\n{}", report.id);
    if !matches!(report.stage, SagaStage::Unreadable) {
        println!("  begun {}", time::shown(report.began_ms));
    }
    match &report.stage {
        SagaStage::Forward(at) => tell_point(at, "now"),
        SagaStage::Back { at, step, why } => {
            tell_point(at, "now undoing");
            println!("  since {step:?} was refused: {why}");
        }
        SagaStage::Ended { end: SagaEnd::Done, at_ms } => {
            println!("  done {}", time::shown(*at_ms));
        }
        SagaStage::Ended { end: SagaEnd::Undone { step, why }, at_ms } => {
            println!("  undone {}, as {step:?} was refused: {why}", time::shown(*at_ms));
        }
        SagaStage::Unreadable => {
            println!("  its record is damaged, or of a later release: nobody goes on with it");
        }
    }
}

fn tell_point(at: &SagaPoint, doing: &str) {
    println!("  {:?}: {} of {} steps are done", at.note, at.done, at.steps);
    if let Some(step) = &at.step {
        let store = if at.store.is_empty() { "the default store" } else { &at.store };
        let again = match at.tries {
            0 => String::new(),
            tries => format!(", refused {tries} times so far"),
        };
        println!("  {doing} {step:?} in {store}{again}");
    }
}
