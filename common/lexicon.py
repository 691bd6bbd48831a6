"""English word lists: the synonym groups of the built-in text, and the frequent words of the vocabulary.

Lengths are balanced on purpose, so that no count of letters can stand in for reading the words: the two
polarities of a kind have the same multiset of word lengths, and for every word some other group of its kind
has a word of each length found among its synonyms.
"""

Group = tuple[str, ...]


def _words(text: str) -> Group:
    return tuple(text.split())


POSITIVE_QUALITIES: tuple[Group, ...] = (
    ("great", "superb", "terrific"),
    ("funny", "witty", "amusing"),
    ("lovely", "pretty", "elegant"),
    ("vivid", "lively", "exciting"),
)
NEGATIVE_QUALITIES: tuple[Group, ...] = (
    ("awful", "terrible", "dreadful"),
    ("boring", "dreary", "tedious"),
    ("cruel", "harsh", "brutal"),
    ("silly", "stupid", "foolish"),
)
LIKING: tuple[Group, ...] = (
    ("enjoy", "savor", "relish"),
    ("love", "adore", "cherish"),
)
DISLIKING: tuple[Group, ...] = (
    ("hate", "abhor", "despise"),
    ("scorn", "taunt", "deride"),
)
ACTIONS: tuple[Group, ...] = (
    ("make", "build", "create"),
    ("mend", "repair", "restore"),
    ("guard", "defend", "protect"),
)
PEOPLE: tuple[Group, ...] = (
    ("kids", "youths", "children"),
    ("pals", "friends", "buddies"),
    ("medics", "doctors", "healers"),
    ("tutors", "mentors", "teachers"),
)
TOPICS: tuple[Group, ...] = (
    ("film", "movie", "picture"),
    ("tale", "story", "fable"),
    ("song", "tune", "melody"),
    ("home", "house", "cottage"),
    ("road", "street", "avenue"),
    ("meal", "dinner", "supper"),
    ("trip", "voyage", "journey"),
    ("game", "match", "contest"),
)

INTENSIFIERS: Group = ("really", "truly", "clearly", "indeed")
NEGATIONS: Group = ("not", "never", "hardly")
CONTRASTS: Group = ("but", "yet", "however")
QUESTION_WORDS: Group = ("what", "when", "where", "which", "who", "whom", "whose", "why", "how")

COMMON_WORDS: Group = _words(
    """
    a an the this that these those i me my mine myself you your yours yourself he him his himself she her
    hers herself it its itself we us our ours ourselves they them their theirs themselves someone somebody
    something anyone anybody anything everyone everybody everything nobody nothing none one ones other
    others another each every either neither both all any some many much more most few fewer less least
    several enough such same own and or nor if then else because since until while although though unless whether
    as than like of at by for with about against between into through during before after above below to
    from up down in out on off over under again further once here there everywhere somewhere nowhere near
    far away across along among around behind beside besides beyond despite except inside outside onto per
    toward towards upon via within without throughout am is are was were be been being have has had having
    do does did doing done can could may might must shall should will would ought need needs needed dare
    used cannot no yes too also just only even still already ever always often sometimes usually rarely
    seldom soon now today tomorrow yesterday tonight later early late ago almost nearly perhaps maybe rather
    instead however therefore thus hence otherwise meanwhile moreover indeed actually probably possibly
    certainly definitely clearly simply exactly especially mostly mainly partly fully completely totally
    highly extremely fairly slightly well better best bad worse worst good fine nice say says said saying
    get gets got getting go goes went going gone know knows knew known knowing think thinks thought thinking
    take takes took taken taking see sees saw seen seeing come comes came coming want wants wanted wanting
    look looks looked looking use uses using find finds found finding give gives gave given giving tell
    tells told telling work works worked working call calls called calling try tries tried trying ask asks
    asked asking feel feels felt feeling become becomes became becoming leave leaves left leaving put puts
    putting mean means meant meaning keep keeps kept keeping let lets letting begin begins began begun
    beginning seem seems seemed help helps helped helping show shows showed shown showing hear hears heard
    hearing play plays played playing run runs ran running move moves moved moving live lives lived living
    believe believes believed hold holds held holding bring brings brought bringing happen happens happened
    write writes wrote written writing provide provides provided sit sits sat sitting stand stands stood
    standing lose loses lost losing pay pays paid paying meet meets met meeting include includes included
    including continue continues continued set sets setting learn learns learned learning lead leads led
    leading understand understands understood watch watches watched watching follow follows followed
    following stop stops stopped stopping speak speaks spoke spoken speaking read reads reading allow allows
    allowed add adds added adding spend spends spent grow grows grew grown growing open opens opened opening
    walk walks walked walking win wins won winning offer offers offered remember remembers remembered
    consider considers considered appear appears appeared buy buys bought buying wait waits waited waiting
    serve serves served die dies died dying send sends sent sending expect expects expected stay stays
    stayed fall falls fell fallen falling cut cuts cutting reach reaches reached remain remains remained
    suggest suggests suggested raise raised pass passed passing sell sells sold selling require requires
    required report reported decide decided pull pulled push pushed break broke broken carry carried eat
    eats ate eaten eating drink drinks drank drinking sleep sleeping drive drives driving fly flies flying
    ride riding sing sings singing dance danced dancing draw drew drawing paint painted cook cooked cooking
    clean cleaned wash washed wear wears wearing catch caught throw threw teach taught teaching explain
    explained describe described agree agreed join joined start starts started starting end ends ended
    ending finish finished turn turns turned turning close closed wish hope hopes hoped fear fight smile
    smiled laugh laughed laughing cry cried hit jump jumped cover covered fill filled plan planned travel
    traveled visit visited return returned answer answered makes made making built building created creating
    changed changing chosen choosing loved loving loves hated hates enjoyed enjoying liked likes improve
    improved increase increased reduce reduced develop developed compare compared time year years day days
    week weeks month months hour hours minute minutes second moment morning afternoon evening night noon
    season spring summer autumn winter age century date past present future history way thing things man men
    woman women child boy boys girl girls baby person people family father mother dad mom parent parents son
    daughter brother sister husband wife uncle aunt cousin friend neighbor guest king queen world earth
    country countries state states city cities town village place places area region land island mountain
    hill valley river lake sea ocean beach coast forest tree trees plant plants flower flowers grass garden
    farm field sky sun moon star stars air wind rain snow storm cloud weather heat fire water ice stone rock
    sand wood metal glass paper plastic oil gas energy power light sound color animal animals dog dogs cat
    cats horse cow bird birds fish mouse bear lion tiger monkey body head face eye eyes ear ears nose mouth
    tooth teeth tongue hair neck shoulder arm arms hand hands finger leg legs foot feet knee skin bone blood
    heart brain mind soul spirit life death health disease pain doctor nurse hospital medicine school
    schools student students teacher class lesson course test exam grade college university degree education
    knowledge science math art music book books page word words letter letters name names language sentence
    paragraph poem author newspaper magazine news article number numbers line lines list table chart map
    picture image photo video camera phone computer computers internet web site program software data system
    systems machine engine car cars bus train truck bike plane airport station street bridge wall door doors
    window windows room rooms floor roof kitchen bed chair desk lamp box bag bottle cup plate food bread
    butter cheese milk egg eggs meat chicken rice fruit apple vegetable soup sugar salt cake coffee tea
    breakfast lunch restaurant hotel bank office company companies business job jobs worker boss manager
    team player players coach group groups member members party leader president government law laws rule
    rules police court judge lawyer war peace hero church god religion money dollar dollars price prices
    cost costs tax bill credit account budget income trade product products service services customer
    industry factory project plans goal goals result results reason reasons cause effect problem problems
    issue issues question questions answers solution method process step steps part parts piece side top
    bottom front back middle center edge corner point points level amount total half quarter pair kind kinds
    type types form forms shape size length width height weight distance speed rate case cases example
    examples fact facts truth lie secret story stories dream dreams memory voice noise movie movies film
    films scene scenes actor actors director role character characters plot script song songs band
    television radio sport sports football race prize award gift birthday wedding holiday vacation trip tour
    adventure experience chance choice decision idea ideas opinion view interest attention care love hate
    anger joy surprise trust doubt pride shame luck success failure mistake danger risk safety freedom right
    rights duty support control influence difference relationship society culture tradition community public
    population new old young big small large little great long short tall high low wide narrow deep thick
    thin heavy fast quick slow easy hard difficult simple complex strong weak rich poor cheap expensive free
    busy full empty hot cold warm cool dry wet dirty bright dark black white red blue green yellow loud
    quiet soft rough smooth sharp sweet fresh happy sad angry afraid tired hungry thirsty sick healthy alive
    dead safe dangerous brave calm proud shy lonely famous popular common rare strange normal special
    general main major minor real true false fake possible impossible likely certain sure clear important
    serious necessary useful useless ready able available different similar equal single double first last
    next previous final whole entire local national international human social political economic medical
    legal private personal modern ancient recent current daily central north south east west northern
    southern eastern western american english british french german spanish chinese japanese indian zero two
    three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand
    million billion third fourth fifth
    """
)

_GROUPS = (
    *(POSITIVE_QUALITIES + NEGATIVE_QUALITIES + LIKING + DISLIKING + ACTIONS + PEOPLE + TOPICS),
    *(INTENSIFIERS, NEGATIONS, CONTRASTS, QUESTION_WORDS, COMMON_WORDS),
)
WORDS: Group = tuple(dict.fromkeys(word for group in _GROUPS for word in group))
"""Every word above, once."""
