//! Services by attribute.

use super::*;

/// A stateless service that is a struct.
#[service(root = node::rt)]
#[derive(Default)]
pub struct Dice;

#[rpc(root = node::rt)]
impl Dice {
    #[invoke]
    async fn roll(&self, cx: &mut Cx<Self>, wait: u64) -> u64 {
        cx.sleep(Duration::from_millis(wait)).await;
        cx.random(|random| random.below(6)) + 1
    }

    #[request(client)]
    #[invoke]
    fn sides(&self) -> u8 {
        6
    }
}

/// A service that is a trait.
#[service(root = node::rt, name = "bank")]
pub trait Bank {
    /// Gives the balance.
    #[request(client)]
    #[invoke]
    async fn balance(&self, cx: &mut Cx<BankService>, account: u64) -> Result<u64, String>;

    /// The bank's name.
    #[invoke]
    fn name(&self) -> String;

    #[tell(server)]
    fn remember(&self, cx: &mut Cx<BankService>, what: String);
}

struct TestBank {
    factor: u64,
}

impl Bank for TestBank {
    async fn balance(&self, cx: &mut Cx<BankService>, account: u64) -> Result<u64, String> {
        if account == 0 {
            return Err("no account".to_owned());
        }
        let dice = cx.service::<Dice>().sides().await.map_err(|error| error.to_string())?;
        Ok(account * self.factor * u64::from(dice))
    }

    fn name(&self) -> String {
        "test bank".to_owned()
    }

    fn remember(&self, _cx: &mut Cx<BankService>, what: String) {
        note(format!("remembered {what}"));
    }
}

#[test]
fn turns_of_a_service_run_side_by_side() {
    both(|mut bench| {
        bench.host.register::<Dice>();
        let began = bench.now;
        bench.run(|out| async move {
            let dice = out.service::<Dice>();
            assert_eq!(dice.sides().await, Ok(6));
            let mut rolls: Vec<_> = (0..3).map(|_| Box::pin(dice.roll(100))).collect();
            std::future::poll_fn(|context| {
                rolls.retain_mut(|roll| roll.as_mut().poll(context).is_pending());
                if rolls.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        let took = bench.now - began;
        assert!(took < Duration::from_millis(200), "{took:?}");
    });
}

#[test]
fn a_service_declared_as_a_trait_is_served_by_a_plain_struct() {
    both(|mut bench| {
        bench.host.register::<Dice>();
        bench.host.register_with(|_| Some(BankService::new(TestBank { factor: 10 })));
        bench.run(|out| async move {
            let bank = out.service::<BankService>();
            assert_eq!(bank.balance(2).await, Ok(120));
            assert_eq!(bank.balance(0).await, Err(Failure::App("no account".to_owned())));
            assert_eq!(bank.name().await.as_deref(), Ok("test bank"));
            bank.remember("this".to_owned()).unwrap();
            bank.name().await.unwrap();
        });
        check(&expect!["remembered this"]);
        assert_eq!(BankService::KIND.name, "bank");
    });
}
